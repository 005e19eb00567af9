from dagster import Definitions, definitions, in_process_executor


@definitions
def executor() -> Definitions:
    """Executes the steps of a run one after the other, in the process of the run.

    Every run already has its own container. Dagster's default executor, multiprocess, starts a
    process for each step, and each process imports everything again, which takes about two
    seconds. A job whose steps should run side by side can still use it:
    `@job(executor_def=multiprocess_executor)`.
    """
    return Definitions(executor=in_process_executor)
