"""An asset of several ops, and one that Dagster materializes when its input changes."""

from dagster import AssetExecutionContext, AutomationCondition, asset, graph_asset, op


@op(description="How many numbers there are")
def count(numbers: list[int]) -> int:
    return len(numbers)


@op(description="The smallest and the largest number")
def extremes(numbers: list[int]) -> tuple[int, int]:
    return min(numbers), max(numbers)


@op(description="Put count and extremes into a sentence")
def describe(how_many: int, smallest_and_largest: tuple[int, int]) -> str:
    smallest, largest = smallest_and_largest
    return f"{how_many} numbers from {smallest} to {largest}"


@graph_asset(
    group_name="report",
    description="The generated numbers in a sentence, computed in several steps",
    kinds={"python"},
    owners=["team:numbers"],
    tags={"domain": "numbers"},
)
def numbers_report(generated_numbers):
    return describe(count(generated_numbers), extremes(generated_numbers))


@asset(
    group_name="report",
    description="The sum in words, materialized after each new sum without a schedule",
    kinds={"python"},
    owners=["team:numbers"],
    tags={"domain": "numbers"},
    automation_condition=AutomationCondition.eager(),
)
def sum_in_words(context: AssetExecutionContext, summed_two_sums: int) -> str:
    words = f"The numbers add up to {summed_two_sums}."
    context.add_output_metadata({"words": words})
    return words
