"""The durable work of the example: what the worker and the web app execute."""

import asyncio
import os

from tidebase.aio import AsyncRunContext, AsyncTidebase

tide = AsyncTidebase()  # TIDEBASE_URL, TIDEBASE_API_KEY, TIDEBASE_WEBHOOK_SECRET
pause_s = float(os.environ.get("PAUSE_S", "1"))


async def ask_model(question: str) -> str:
    """Stands for a language model: slow, and not to be paid twice."""
    print(f"asking: {question}", flush=True)
    await asyncio.sleep(pause_s)
    return f"What is known about {question}."


@tide.workflow("report")
async def report(run: AsyncRunContext, input: dict) -> dict:
    """Research, then a person's approval, then the mail. Killed anywhere, it goes on from its last finished step."""
    topic = input["topic"]
    sections = await run.step("outline", lambda: [f"{topic}, part {n}" for n in (1, 2, 3)])
    parts = []
    for done, section in enumerate(sections):
        await run.state.set({"doing": section, "done": done, "of": len(sections)})
        parts.append(await run.step("research", lambda: ask_model(section), each=True, input=section, retries=3))
    text = "\n".join(parts)
    gate = await run.gate("publish", f"Publish the report about {topic}?", data={"text": text}, timeout_s=7 * 86_400)
    if not gate.approved:
        return {"published": False, "by": gate.actor}
    await run.step("mail", lambda: print("mailed", flush=True), side_effects=["email"], idempotency_key=run.id)
    return {"published": True, "by": gate.actor, "text": text}


@tide.workflow("summary")
async def summary(run: AsyncRunContext, input: dict) -> str:
    """Short enough for the web process itself; a webhook brings it back when that process dies."""
    facts = await run.step("facts", lambda: ask_model(input["topic"]))
    return await run.step("shorten", lambda: ask_model(f"{facts} in one sentence"))
