"""Whether the data is what it should be: shown beside the asset, after each materialization."""

from dagster import AssetCheckResult, AssetIn, asset_check

from code_location.defs.numbers.assets import summed_two_sums


@asset_check(
    asset=summed_two_sums,
    description="The two sums add up to the sum of the numbers they were made from",
    additional_ins={"generated_numbers": AssetIn("generated_numbers")},
)
def sums_add_up(summed_two_sums, generated_numbers):
    expected = sum(generated_numbers)
    return AssetCheckResult(
        passed=summed_two_sums == expected,
        metadata={"sum": summed_two_sums, "expected": expected},
    )
