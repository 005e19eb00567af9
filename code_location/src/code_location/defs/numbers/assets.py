"""Data: the same computation as assets, and a job that materializes all of them."""

from dagster import AssetSelection, asset, define_asset_job


@asset(
    group_name="numbers",
    description="Generated a list of numbers from 1 to 10",
    kinds={"python"},
)
def generated_numbers():
    return list(range(1, 11))


@asset(
    group_name="numbers",
    description="Filtered even numbers from the list",
    kinds={"python"},
)
def filtered_even_numbers(generated_numbers):
    return [num for num in generated_numbers if num % 2 == 0]


@asset(
    group_name="numbers",
    description="Filtered odd numbers from the list",
    kinds={"python"},
)
def filtered_odd_numbers(generated_numbers):
    return [num for num in generated_numbers if num % 2 != 0]


@asset(
    group_name="numbers",
    description="Summed the even numbers",
    kinds={"python"},
)
def summed_even_numbers(filtered_even_numbers):
    return sum(filtered_even_numbers)


@asset(
    group_name="numbers",
    description="Summed the odd numbers",
    kinds={"python"},
)
def summed_odd_numbers(filtered_odd_numbers):
    return sum(filtered_odd_numbers)


@asset(
    group_name="numbers",
    description="Summed the two sums",
    kinds={"python"},
)
def summed_two_sums(summed_even_numbers, summed_odd_numbers):
    return summed_even_numbers + summed_odd_numbers


process_numbers_asset = define_asset_job(
    name="process_numbers_asset",
    selection=AssetSelection.groups("numbers"),
)
