"""A check of the data after each materialization. The UI shows the result beside the asset."""

from dagster import AssetCheckResult, AssetIn, asset_check

from code_location.defs.numbers.assets import summed_two_sums


@asset_check(
    asset=summed_two_sums,
    description="The two sums add up to the sum of all numbers",
    additional_ins={"generated_numbers": AssetIn("generated_numbers")},
)
def sums_add_up(summed_two_sums, generated_numbers):
    expected = sum(generated_numbers)
    return AssetCheckResult(
        passed=summed_two_sums == expected,
        metadata={"sum": summed_two_sums, "expected": expected},
    )
