"""FastAPI over SQLAlchemy and Redis, in the manner of FastAPI's tutorial on SQL databases."""

import os
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import redis
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

engine = create_engine(os.environ["DATABASE_URL"])
cache = redis.Redis.from_url(os.environ["REDIS_URL"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> Any:
    yield
    engine.dispose()
    cache.close()


app = FastAPI(lifespan=lifespan)


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@app.get("/")
def read_root(session: Annotated[Session, Depends(get_session)]) -> dict[str, Any]:
    return {"one": session.execute(text("SELECT 1")).scalar(), "visits": cache.incr("visits")}
