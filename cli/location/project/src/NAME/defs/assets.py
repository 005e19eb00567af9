import dagster as dg


@dg.asset(group_name="@name@")
def first_asset() -> int:
    """Replace this by what you want to keep up to date."""
    return 1
