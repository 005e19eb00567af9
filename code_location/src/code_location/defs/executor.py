from dagster import Definitions, definitions, in_process_executor


@definitions
def executor() -> Definitions:
    """Steps run inside the run's own process, one after the other.

    Every run has a container to itself already. Dagster's default, multiprocess, starts a
    process per step and imports everything again in each, two seconds apiece. A job whose steps
    should run side by side asks for it: `@job(executor_def=multiprocess_executor)`.
    """
    return Definitions(executor=in_process_executor)
