import dagster as dg
from dagster_duckdb import DuckDBResource

resources = dg.Definitions(
    resources={"database": DuckDBResource(database=dg.EnvVar("DUCKDB_DATABASE"))}
)
