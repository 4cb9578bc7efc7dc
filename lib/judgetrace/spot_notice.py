"""Ask a cloud's instance metadata whether this machine is about to be taken away.

Needs no credentials: the addresses answer only inside the machine. The environment can name others, by the variables
that the clouds' own libraries read. Sources: AWS EC2 user guide, "Spot instance interruption notices" (instance-action,
two minutes; IMDSv2 tokens); Google Compute Engine documentation, "Preemptible VM instances" (instance/preempted, 30 s).
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

Cloud = Literal["aws", "gcp"]
ANSWER_WITHIN_S = 2.0
GCP_WARNING_S = 30.0


def read_spot_notice(cloud: Cloud, now: float) -> float | None:
    """Return the seconds until this machine is taken away; None where no notice was given.

    `now` in seconds since the epoch. Raises OSError where the metadata can't be read.
    """
    return _read_aws(now) if cloud == "aws" else _read_gcp()


def _read_aws(now: float) -> float | None:
    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
    token = _ask(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    try:
        answer = _ask(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            # How AWS says that there is no notice.
            return None
        raise
    action = json.loads(answer)
    return max(0.0, datetime.fromisoformat(action["time"]).timestamp() - now)


def _read_gcp() -> float | None:
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    preempted = _ask(f"http://{host}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GCP_WARNING_S if preempted.strip() == "TRUE" else None


def _ask(url: str, headers: Mapping[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S) as answer:
        text: str = answer.read().decode()
    return text
