"""Starlette over asyncpg, in the manner of Starlette's page on databases and asyncpg's on web services."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"].replace("+psycopg", ""), min_size=1) as pool:
        app.state.pool = pool
        yield


async def homepage(request: Request) -> JSONResponse:
    pool: Any = request.app.state.pool
    return JSONResponse({"one": await pool.fetchval("SELECT 1")})


app = Starlette(routes=[Route("/", homepage)], lifespan=lifespan)
