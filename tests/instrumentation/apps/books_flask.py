"""Flask, in the manner of its quickstart, over Redis."""

import os

import redis
from flask import Flask

app = Flask(__name__)
cache = redis.Redis.from_url(os.environ["REDIS_URL"])


@app.route("/")
def hello_world() -> str:
    return f"<p>Hello, visitor {cache.incr('visits')}!</p>"
