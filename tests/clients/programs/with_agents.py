"""OpenAI's agents: an output type, and a tool whose result the next turn is told."""

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from common import BASE, KEY, MODEL, Answer, Scene, expect

set_tracing_disabled(disabled=True)
client = openai.AsyncOpenAI(base_url=BASE, api_key=KEY, max_retries=0)
model = OpenAIChatCompletionsModel(model=MODEL, openai_client=client)


@function_tool
def weigh(grams: int) -> str:
    """Weigh something."""
    return f"{grams} g"


agent = Agent(name="looks", instructions="Look.", model=model, output_type=Scene)
expect(Runner.run_sync(agent, "Describe a red circle.").final_output)
agent = Agent(
    name="weighs",
    instructions="Weigh.",
    model=model,
    tools=[weigh],
    output_type=Answer,
    model_settings=ModelSettings(tool_choice="required"),
)
expect(Runner.run_sync(agent, "Is it heavy?", max_turns=3).final_output, Answer)
