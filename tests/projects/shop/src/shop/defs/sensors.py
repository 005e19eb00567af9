import json
from pathlib import Path

import dagster as dg

from shop import paths
from shop.defs.jobs import customer_job


@dg.sensor(job=customer_job, minimum_interval_seconds=5)
def requests(context: dg.SensorEvaluationContext):
    for file in sorted(Path(paths.REQUESTS).glob("*.json")):
        config = {"ops": {"customer_report": {"config": json.loads(file.read_text())}}}
        yield dg.RunRequest(run_key=file.name, run_config=config)
