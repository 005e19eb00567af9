import os
from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource

from shop import paths


class Requested(dg.Config):
    customer: str = "ada"


@dg.asset(deps=["daily_revenue"])
def revenue_plot(database: DuckDBResource) -> None:
    import matplotlib.pyplot as plt

    with database.get_connection() as connection:
        table = connection.execute("select * from daily_revenue").fetch_df()
    figure, axes = plt.subplots()
    axes.bar(table["day"].astype(str), table["revenue"])
    os.makedirs(os.path.dirname(paths.PLOT), exist_ok=True)
    figure.savefig(paths.PLOT)


@dg.asset(deps=["customers"])
def best_customer(database: DuckDBResource) -> str:
    with database.get_connection() as connection:
        query = "select customer from customers order by spent desc, customer limit 1"
        return connection.execute(query).fetchone()[0]


@dg.asset(deps=["products"])
def best_product(database: DuckDBResource) -> str:
    with database.get_connection() as connection:
        query = "select product from products order by sold desc, product limit 1"
        return connection.execute(query).fetchone()[0]


@dg.asset
def report(best_customer: str, best_product: str) -> str:
    text = (
        f"# {os.environ['SHOP_NAME']}\n\n{best_customer} likes us, and all like {best_product}.\n"
    )
    Path(paths.REPORT).parent.mkdir(parents=True, exist_ok=True)
    Path(paths.REPORT).write_text(text)
    return text


@dg.asset(deps=["orders"])
def customer_report(config: Requested, database: DuckDBResource) -> dg.MaterializeResult:
    with database.get_connection() as connection:
        query = "select count(*) from orders where customer = ?"
        count = connection.execute(query, [config.customer]).fetchone()[0]
    return dg.MaterializeResult(metadata={"orders": count})
