"""How far annotators and raters agree: counts that add, statistics of the sums, intervals, a report."""
