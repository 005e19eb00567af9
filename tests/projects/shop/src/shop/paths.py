ORDERS = "data/raw/orders.csv"
REQUESTS = "data/requests"
PLOT = "data/output/revenue.png"
REPORT = "data/output/report.md"
