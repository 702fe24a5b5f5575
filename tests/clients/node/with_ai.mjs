// The AI SDK of Vercel: objects, whole and streamed, and tools that must be called.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamObject, tool } from "ai";
import { answer, base, key, model, png, scene } from "./common.mjs";

const provider = createOpenAICompatible({
  name: "idefiq",
  baseURL: base,
  apiKey: key,
  supportsStructuredOutputs: true,
});
const content = [
  { type: "text", text: "Describe the image." },
  { type: "image", image: png, mediaType: "image/png" },
];
const asked = {
  model: provider.chatModel(model),
  maxRetries: 0,
  messages: [{ role: "user", content }],
};

scene.parse((await generateObject({ ...asked, schema: scene })).object);
const streamed = streamObject({ ...asked, schema: scene });
let pieces = 0;
for await (const piece of streamed.partialObjectStream) pieces += piece !== undefined;
scene.parse(await streamed.object);
if (!pieces) throw new Error("nothing was streamed");
const tools = { scene: tool({ inputSchema: scene }), answer: tool({ inputSchema: answer }) };
const { toolCalls } = await generateText({ ...asked, tools, toolChoice: "required" });
({ scene, answer })[toolCalls[0].toolName].parse(toolCalls[0].input);
const look = tool({ inputSchema: answer, execute: async () => "thank you" });
const steps = await generateText({
  ...asked,
  tools: { look },
  toolChoice: "required",
  stopWhen: stepCountIs(2),
});
if (steps.steps.length !== 2) throw new Error(`${steps.steps.length} steps`);
