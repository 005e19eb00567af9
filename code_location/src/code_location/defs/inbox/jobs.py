"""The job that processes one file of the inbox."""

from pathlib import Path

from dagster import Config, OpExecutionContext, job, op


class InboxFile(Config):
    """The path of the file on the volume `inbox`."""

    path: str


@op(description="Add up the numbers in a file, one per line", tags={"domain": "inbox"})
def sum_numbers_in_file(context: OpExecutionContext, config: InboxFile) -> float:
    total = sum(float(line) for line in Path(config.path).read_text().split())
    context.log.info(f"{config.path} adds up to {total}")
    return total


@job(description="Process one file of the inbox", tags={"domain": "inbox"})
def process_inbox_file():
    sum_numbers_in_file()
