create or replace table daily_revenue as
select day, sum(amount) as revenue, count(*) as orders
from orders
group by day
order by day
