"""The operator's command line, on the host: `./stack VERB`. Standard library only.

Compose does the work. This adds what Compose leaves open: it names bad settings and a taken port
before anything is built, ends a failed start with the one line that says why, and stops and removes
run containers, which Compose does not know, with the stack.

    verbs/       a module for each verb
    commands.py  builds the command lines of docker and Compose, and runs none
    stack.py     one stack: its settings, services and run containers
    client.py    the GraphQL API, as the web UI uses it
    health.py    what is wrong with a stack
    checks.py    what is refused before anything is built
    builds.py    builds the images
    outdated.py  removes what an earlier start made and this one does not have
    runs.py      follows a run to its end
    dotenv.py    which names stand in .env, and which of them nothing reads
    output.py    what the operator sees
    errors.py    the error that ends a verb, and the exit statuses
    reference.py docs/reference/commands.md and settings.md, from the verbs and .env.example
"""
