"""Notifications. They produce no data, so they are an op and not an asset."""

import requests
from dagster import (
    Backoff,
    Config,
    ConfigurableResource,
    Definitions,
    EnvVar,
    OpExecutionContext,
    RetryPolicy,
    definitions,
    job,
    op,
)


class Webhook(ConfigurableResource):
    """An HTTP endpoint that accepts JSON, such as the webhook of a chat program."""

    url: str
    timeout_seconds: float = 10

    def post(self, message: dict[str, str]) -> None:
        """Posts a message. Raises requests.RequestException when the endpoint refuses it."""
        requests.post(self.url, json=message, timeout=self.timeout_seconds).raise_for_status()


class Message(Config):
    """The JSON object that is posted."""

    text: str
    job: str = ""
    run: str = ""
    error: str = ""
    link: str = ""


@op(
    description="Post a message to the webhook, or log it if no webhook is set",
    tags={"domain": "notifications"},
    # The retries take most of a minute, so a short outage of the webhook loses no message.
    retry_policy=RetryPolicy(max_retries=3, delay=5, backoff=Backoff.EXPONENTIAL),
)
def post_message(context: OpExecutionContext, config: Message, webhook: Webhook) -> None:
    if not webhook.url:
        context.log.info(f"NOTIFICATION_WEBHOOK_URL is empty, nothing posted: {config.text}")
        return
    webhook.post(config.model_dump())


@job(description="Post one message to the webhook", tags={"domain": "notifications"})
def notify():
    post_message()


@definitions
def resources() -> Definitions:
    return Definitions(resources={"webhook": Webhook(url=EnvVar("NOTIFICATION_WEBHOOK_URL"))})
