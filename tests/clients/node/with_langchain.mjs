// LangChain for Node: structured output by a schema and by a function, whole and streamed.
import { ChatOpenAI } from "@langchain/openai";
import { base, key, messages, model, scene } from "./common.mjs";

const chat = new ChatOpenAI({
  model,
  apiKey: key,
  maxRetries: 0,
  configuration: { baseURL: base },
});
for (const method of ["jsonSchema", "functionCalling"]) {
  const structured = chat.withStructuredOutput(scene, { method, name: "scene" });
  scene.parse(await structured.invoke(messages));
  let last;
  for await (const piece of await structured.stream(messages)) last = piece;
  scene.parse(last);
}
