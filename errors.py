"""The catalogue of everything that can go wrong for a caller.

One root, one class per code. A class says its code, its status as a number and a
title; an instance adds the sentence that helps and the data of the case. The HTTP
layer turns an instance into RFC 9457 `application/problem+json`; nothing here knows
about HTTP beyond the number.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class Problem(Exception):
    """Something the caller is told about.

    `detail` is one sentence for a person. `errors` locates the fault: each entry has a
    `detail` and one of `pointer` (RFC 6901, into the body), `parameter` or `header`.
    `data` holds further members of the answer (`current`, `oldest`, `head`).
    `retry_after` is in seconds.
    """

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    default_detail: ClassVar[str] = "Something went wrong on our side; the outcome is not known."

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Iterable[Mapping[str, Any]] = (),
        data: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.detail = detail or self.default_detail
        self.errors = [dict(error) for error in errors]
        self.data = dict(data or {})
        self.retry_after = retry_after
        super().__init__(self.detail)

    @classmethod
    def at(cls, detail: str, *, pointer: str) -> "Problem":
        """The problem with one fault in the body, e.g. `pointer="#/forward_to"`."""
        return cls(detail, errors=[{"detail": detail, "pointer": pointer}])


class Internal(Problem):
    pass


# --- 400 ------------------------------------------------------------------------------


class MalformedJson(Problem):
    code, status, title = "malformed_json", 400, "Malformed JSON"
    default_detail = "The body is not JSON in UTF-8."


class BadCursor(Problem):
    code, status, title = "bad_cursor", 400, "Bad cursor"
    default_detail = "The cursor is not one of ours, or belongs to other filters."


class BadHeader(Problem):
    code, status, title = "bad_header", 400, "Bad header"
    default_detail = "A header cannot be read."


# --- 401, 403 -------------------------------------------------------------------------


class Unauthenticated(Problem):
    code, status, title = "unauthenticated", 401, "Not signed in"
    default_detail = "This call needs a valid credential."


class InvalidCredentials(Problem):
    code, status, title = "invalid_credentials", 401, "Invalid credentials"
    default_detail = "The username or the password is wrong."


class Forbidden(Problem):
    code, status, title = "forbidden", 403, "Forbidden"
    default_detail = "Your role does not allow this call."


class BadOrigin(Problem):
    code, status, title = "bad_origin", 403, "Bad origin"
    default_detail = "With a cookie, this call must come from this service's own pages."


# --- 404, 405 -------------------------------------------------------------------------


class NotFound(Problem):
    code, status, title = "not_found", 404, "Not found"
    default_detail = "There is nothing here that you may see."


class MethodNotAllowed(Problem):
    code, status, title = "method_not_allowed", 405, "Method not allowed"
    default_detail = "This address does not answer to that method."


# --- 409 ------------------------------------------------------------------------------


class QueueExists(Problem):
    code, status, title = "queue_exists", 409, "Queue exists"
    default_detail = "There is a queue of that name."


class QueueNotEmpty(Problem):
    code, status, title = "queue_not_empty", 409, "Queue not empty"
    default_detail = "Messages are pending or processing; force=true deletes all the same."


class QueueProtected(Problem):
    code, status, title = "queue_protected", 409, "Queue protected"
    default_detail = "The queue 'orders' cannot be deleted."


class LeaseLost(Problem):
    code, status, title = "lease_lost", 409, "Lease lost"
    default_detail = "This receipt no longer holds the message."


class IllegalTransition(Problem):
    code, status, title = "illegal_transition", 409, "Illegal transition"
    default_detail = "The message cannot make this move from its status."


class IdempotencyInProgress(Problem):
    code, status, title = "idempotency_in_progress", 409, "Idempotency key in progress"
    default_detail = "A call with this key has not been answered yet; ask again."


class OutOfStock(Problem):
    code, status, title = "out_of_stock", 409, "Out of stock"
    default_detail = "There is not enough of it left."


class NotOnSale(Problem):
    code, status, title = "not_on_sale", 409, "Not on sale"
    default_detail = "It is not on sale, or not yet."


class BelowReserved(Problem):
    code, status, title = "below_reserved", 409, "Below reserved"
    default_detail = "More than that is reserved for purchases."


class AccountExists(Problem):
    code, status, title = "account_exists", 409, "Account exists"
    default_detail = "There is an account of that name."


class CustomerExists(Problem):
    code, status, title = "customer_exists", 409, "Customer exists"
    default_detail = "There is a customer with that nickname or e-mail address."


class CustomerInactive(Problem):
    code, status, title = "customer_inactive", 409, "Customer inactive"
    default_detail = "This customer was deactivated; an admin can activate him again."


class ProductExists(Problem):
    code, status, title = "product_exists", 409, "Product exists"
    default_detail = "There is a product of that SKU."


class LastAdmin(Problem):
    code, status, title = "last_admin", 409, "Last admin"
    default_detail = "The last active admin stays."


# --- 410, 412, 413, 414, 415, 431 -----------------------------------------------------


class CursorGone(Problem):
    code, status, title = "cursor_gone", 410, "Cursor gone"
    default_detail = "The events after this cursor have been pruned."


class VersionMismatch(Problem):
    code, status, title = "version_mismatch", 412, "Version mismatch"
    default_detail = "It was changed meanwhile; read it again."


class TooLarge(Problem):
    code, status, title = "too_large", 413, "Too large"
    default_detail = "The request is larger than allowed."


class UrlTooLarge(TooLarge):
    status = 414
    default_detail = "The address is longer than 8 KiB."


class HeadersTooLarge(TooLarge):
    status = 431
    default_detail = "The headers are larger than 16 KiB."


class UnsupportedMediaType(Problem):
    code, status, title = "unsupported_media_type", 415, "Unsupported media type"
    default_detail = "The body must be application/json in UTF-8."


# --- 422 ------------------------------------------------------------------------------


class Invalid(Problem):
    code, status, title = "invalid", 422, "Invalid"
    default_detail = "The request does not fit its shape."


class IdempotencyKeyReused(Problem):
    code, status, title = "idempotency_key_reused", 422, "Idempotency key reused"
    default_detail = "This key came with another purchase before."


# --- 429, 5xx -------------------------------------------------------------------------


class RateLimited(Problem):
    code, status, title = "rate_limited", 429, "Rate limited"
    default_detail = "Too many calls; wait and repeat."


class TooManyStreams(Problem):
    code, status, title = "too_many_streams", 429, "Too many streams"
    default_detail = "Too many open streams; close one first."


class Unavailable(Problem):
    code, status, title = "unavailable", 503, "Unavailable"
    default_detail = "The outcome is not known; repeat with the same key or receipt."


class Overloaded(Problem):
    code, status, title = "overloaded", 503, "Overloaded"
    default_detail = "Too much is waiting; repeat in a moment."


def catalogue() -> dict[str, type[Problem]]:
    """Every code with its class: the docs and OpenAPI are checked against this."""
    found: dict[str, type[Problem]] = {}
    todo: list[type[Problem]] = [Problem]
    while todo:
        kind = todo.pop()
        found.setdefault(kind.code, kind)
        todo.extend(kind.__subclasses__())
    return found


def body(problem: Problem, request_id: str) -> dict[str, Any]:
    """The RFC 9457 object of an answer; `request_id` is a UUID as text."""
    return {
        **problem.data,
        "type": f"urn:filaviva:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "instance": f"urn:uuid:{request_id}",
        "errors": problem.errors,
    }
