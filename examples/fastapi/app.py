"""A web app whose slow work is durable: `uvicorn app:app`. Its reports are executed by worker.py."""

import asyncio
import os
from html import escape

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel
from tidebase import TidebaseError, new_run_id
from workflows import summary, tide

app = FastAPI()
public_url = os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000")
tasks: set = set()


class Ask(BaseModel):
    topic: str


@app.exception_handler(TidebaseError)
async def tidebase_error(_request: Request, error: TidebaseError) -> JSONResponse:
    """Errors of the run server, with what to do about them."""
    status = error.status if error.status in (404, 409) else 503
    return JSONResponse({"error": str(error), "code": error.code, "hint": error.hint}, status)


@app.post("/reports", status_code=202)
async def create_report(ask: Ask) -> dict:
    """Two clicks are one report: while one about this topic is under way, that one is the answer."""
    run, deduplicated = await tide.enqueue(
        "report", queue="reports", input={"topic": ask.topic}, dedupe_key=f"report:{ask.topic}", max_attempts=5
    )
    return {"runId": run["id"], "deduplicated": deduplicated}


@app.get("/reports/{run_id}")
async def get_report(run_id: str) -> dict:
    detail = await tide.runs.get(run_id, include=["run", "state", "gates"])
    run, state = detail["run"], detail["state"]
    if run["workflowName"] != "report":
        raise HTTPException(404, "no such report")
    questions = [
        {"gateId": gate["id"], "prompt": gate["prompt"], "data": gate["data"]}
        for gate in detail["gates"]
        if gate["status"] == "pending"
    ]
    return {
        "status": run["status"],
        "progress": state and state["value"],
        "questions": questions,
        "result": run["result"],
        "error": run["error"],
    }


@app.get("/", response_class=HTMLResponse)
async def inbox() -> str:
    """What waits for a person. Your login belongs in front of this and of the next route."""
    rows = ""
    for gate in (await tide.runs.inbox())["gates"]:
        forms = "".join(
            f'<form method="post" action="/gates/{gate["runId"]}/{gate["id"]}/{decision}">'
            f"<button>{decision}</button></form>"
            for decision in ("approved", "rejected")
        )
        rows += f"<li>{escape(gate['prompt'])}<pre>{escape(str(gate['data']))}</pre>{forms}</li>"
    return f"<!doctype html><title>Inbox</title><h1>Waiting for you</h1><ul>{rows or 'Nothing.'}</ul>"


@app.post("/gates/{run_id}/{gate_id}/{decision}")
async def decide(run_id: str, gate_id: str, decision: str) -> RedirectResponse:
    await tide.runs.resolve_gate(run_id, gate_id, decision, actor="somebody who is logged in")
    return RedirectResponse("/", 303)


@app.post("/summaries", status_code=202)
async def create_summary(ask: Ask) -> dict:
    """Executed here, without a worker. If this process dies, the server calls the webhook below."""
    run_id = new_run_id()
    hook = f"{public_url}/webhooks/tidebase"
    await tide.runs.create("summary", id=run_id, input={"topic": ask.topic}, recovery_webhook=hook)
    task = asyncio.create_task(tide.run(summary, run_id=run_id))
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return {"runId": run_id}


@app.get("/summaries/{run_id}")
async def get_summary(run_id: str) -> dict:
    run = (await tide.runs.get(run_id, include=["run"]))["run"]
    return {"status": run["status"], "result": run["result"]}


@app.post("/webhooks/tidebase")
async def webhook(request: Request) -> JSONResponse:
    """The signature is over the raw body: give `tide.webhook` the bytes, not what a parser made of them."""
    reply = tide.webhook(await request.body(), request.headers.get("x-tidebase-signature"))
    return JSONResponse(reply.body, reply.status)
