"""Customers: the one place of personal data. Everything else holds a customer's id."""

import secrets

from database import Session
from errors import CustomerExists, CustomerInactive
from models import Customer


async def create(session: Session, email: str | None, now: int) -> str:
    """A new customer with an id that nobody could have chosen; the id.

    Raises:
        CustomerExists: the e-mail address belongs to another one.
    """
    address = email.lower() if email else None
    if address and await Customer.exists(using_db=session.orm, email=address):
        raise CustomerExists
    fresh = f"c-{secrets.token_hex(10)}"
    await Customer.create(using_db=session.orm, id=fresh, email=address, created_at=now)
    return fresh


async def demand_active(session: Session, customer: str) -> None:
    """Refuse a customer who was deactivated; who stands in no directory is nobody's to refuse.

    Raises:
        CustomerInactive: he places no orders.
    """
    rows = await session.fetch("SELECT active FROM customers WHERE id = $1", customer)
    if rows and not rows[0]["active"]:
        raise CustomerInactive
