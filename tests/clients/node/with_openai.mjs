// OpenAI's client for Node: response formats and tools, whole and streamed.
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { answer, base, key, messages, model, scene } from "./common.mjs";

const completions = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 }).chat.completions;
const asked = { model, messages };
const format = { ...asked, response_format: zodResponseFormat(scene, "scene") };
const tool = (name, parameters) => zodFunction({ name, parameters });
const one = { ...asked, tools: [tool("scene", scene)], tool_choice: "required" };
const two = { ...one, tools: [...one.tools, tool("answer", answer)] };

scene.parse((await completions.parse(format)).choices[0].message.parsed);
scene.parse((await completions.stream(format).finalChatCompletion()).choices[0].message.parsed);
const called = async (body) => (await completions.parse(body)).choices[0].message.tool_calls[0];
scene.parse((await called(one)).function.parsed_arguments);
const either = await called(two);
({ scene, answer })[either.function.name].parse(either.function.parsed_arguments);
const streamed = await completions.stream(one).finalChatCompletion();
scene.parse(JSON.parse(streamed.choices[0].message.tool_calls[0].function.arguments));
