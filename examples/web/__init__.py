"""One small application behind five web frameworks; `service.py` is what they all share.

Run one of them from the root of the repository, and open http://127.0.0.1:8000:

    pip install '.[web]'
    python -m uvicorn examples.web.on_fastapi:app
    python -m uvicorn examples.web.on_starlette:app
    python -m uvicorn examples.web.on_django:app
    python -m hypercorn --worker-class trio examples.web.on_starlette:app
    python -m examples.web.on_aiohttp
    python -m examples.web.several
"""
