"""The operator's command line, on the host: `./stack VERB`. Standard library only.

Compose does the work. This package adds what Compose lacks. It refuses wrong settings and a port in
use before it builds anything. If a start fails, the last line of its output is the reason. It stops
and removes run containers together with the stack, because Compose does not know them.

    verbs/       a module for each verb
    commands.py  the command lines of docker and Compose, as lists of words
    stack.py     one stack: its settings, services and run containers
    client.py    a client of the GraphQL API
    health.py    finds what is wrong with a stack
    checks.py    refuses wrong settings and a port in use, before a build
    builds.py    builds the images, and reports progress
    outdated.py  removes services and networks that the stack no longer has
    runs.py      follows a run until it ends
    dotenv.py    reads the names in .env, and finds those that nothing uses
    values.py    refuses values of settings that cannot work
    output.py    prints lines and tables for the operator
    errors.py    the error that ends a verb, and the exit statuses
    reference.py writes docs/reference/commands.md and settings.md
"""
