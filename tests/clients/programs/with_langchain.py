"""LangChain: structured output by a schema and by a function, and tools that must be called."""

from common import BASE, KEY, MODEL, Answer, Scene, expect, messages
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model=MODEL, base_url=BASE, api_key=KEY, max_retries=0)
for method in ("json_schema", "function_calling"):
    structured = model.with_structured_output(Scene, method=method)
    expect(structured.invoke(messages()))
    expect(list(structured.stream(messages()))[-1])
[call] = model.bind_tools([Scene, Answer], tool_choice="any").invoke(messages()).tool_calls
kind = {"Scene": Scene, "Answer": Answer}[call["name"]]
expect(kind.model_validate(call["args"]), kind)
[call] = model.bind_tools([Scene, Answer], tool_choice="Answer").invoke(messages()).tool_calls
expect(Answer.model_validate(call["args"]), Answer)
