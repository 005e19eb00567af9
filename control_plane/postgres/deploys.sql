-- What was live when, by whom (`./stack deploys`). The command line writes it (cli/history.py).
CREATE TABLE IF NOT EXISTS deploys (
    id serial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    -- The service of the code location.
    service text NOT NULL,
    -- The ID of the image, and its labels.
    image text NOT NULL,
    version text NOT NULL,
    revision text NOT NULL,
    -- deploy, rollback, up, or unfinished (a deploy until it is whole), and who called it.
    verb text NOT NULL,
    who text NOT NULL
);
REVOKE ALL ON deploys FROM dagster_control, dagster_code, dagster_viewer;
