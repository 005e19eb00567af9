import dagster as dg

everything = dg.define_asset_job(
    "everything", selection=dg.AssetSelection.all() - dg.AssetSelection.assets("customer_report")
)
customer_job = dg.define_asset_job(
    "customer_job", selection=dg.AssetSelection.assets("customer_report")
)
every_minute = dg.ScheduleDefinition(name="every_minute", job=everything, cron_schedule="* * * * *")
