"""Fine-tune raters on traces, apart from the job."""
