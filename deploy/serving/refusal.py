"""Refuses a request: an HTTP status with a message of one line."""

from typing import Optional


class Refusal(Exception):
    """A request is refused with `status` (RFC 9110, section 15). The message says what was given, what was expected.

    Attributes:
        status: 400 to 599.
        retry_after: seconds until another try makes sense; None where none does.
    """

    def __init__(self, status: int, message: str, retry_after: Optional[int] = None) -> None:
        super().__init__(" ".join(message.split()))
        self.status, self.retry_after = status, retry_after
