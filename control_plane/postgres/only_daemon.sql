-- The daemon holds a lock on this table for as long as it lives (control_plane/only_daemon.py). It has no
-- rows. The right to update is the right to lock.
CREATE TABLE IF NOT EXISTS only_daemon ();
REVOKE ALL ON only_daemon FROM dagster_control, dagster_code, dagster_viewer;
GRANT UPDATE ON only_daemon TO dagster_control;
