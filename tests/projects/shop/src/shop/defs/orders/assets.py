from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_duckdb import DuckDBResource

from shop import paths

REVENUE = Path(__file__).parent / "revenue.sql"


@dg.asset
def raw_orders() -> pd.DataFrame:
    return pd.read_csv(paths.ORDERS)


@dg.asset
def orders(raw_orders: pd.DataFrame, database: DuckDBResource) -> None:
    with database.get_connection() as connection:
        connection.register("raw", raw_orders)
        connection.execute("create or replace table orders as select * from raw")


@dg.asset(deps=[orders])
def customers(database: DuckDBResource) -> None:
    with database.get_connection() as connection:
        connection.execute(
            "create or replace table customers as"
            " select customer, count(*) as orders, sum(amount) as spent from orders group by all"
        )


@dg.asset(deps=[orders])
def products(database: DuckDBResource) -> None:
    with database.get_connection() as connection:
        connection.execute(
            "create or replace table products as"
            " select product, sum(amount) as sold from orders group by all"
        )


@dg.asset(deps=[orders])
def daily_revenue(database: DuckDBResource) -> dg.MaterializeResult:
    with database.get_connection() as connection:
        connection.execute(REVENUE.read_text())
        days = connection.execute("select count(*) from daily_revenue").fetchone()[0]
    return dg.MaterializeResult(metadata={"days": days})


@dg.asset_check(asset=orders)
def amounts_are_positive(database: DuckDBResource) -> dg.AssetCheckResult:
    with database.get_connection() as connection:
        bad = connection.execute("select count(*) from orders where amount <= 0").fetchone()[0]
    return dg.AssetCheckResult(passed=bad == 0)
