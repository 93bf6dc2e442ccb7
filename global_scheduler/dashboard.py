"""The page at ``/admin``: what the admin API shows, for people who would rather look."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response

PAGE = Path(__file__).with_name("dashboard.html")
HEADERS = {
    "content-security-policy": "default-src 'none'; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}


def dashboard_router() -> APIRouter:
    """The page alone, which holds no data: its calls need the token as all others do."""
    router = APIRouter()

    @router.get("/admin", include_in_schema=False)
    async def show() -> Response:
        """The page."""
        return Response(PAGE.read_bytes(), media_type="text/html", headers=HEADERS)

    return router
