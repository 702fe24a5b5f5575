// What the programs share: where the service is, a picture, and what they want to know of it.
import { deflateSync, crc32 } from "node:zlib";
import { z } from "zod";

export const [base, key] = process.argv.slice(2);
export const model = "demo";

const circle = z.object({ kind: z.literal("circle"), radius: z.number().int().min(0).max(99) });
const square = z.object({ kind: z.literal("square"), side: z.number().int().min(0).max(99) });
export const scene = z.object({
  color: z.enum(["red", "blue"]),
  count: z.number().int().min(0).max(20),
  note: z.string().max(10).nullable(),
  parts: z.array(z.object({ name: z.string().max(8), isSmall: z.boolean() })).max(2),
  shape: z.discriminatedUnion("kind", [circle, square]),
});
export const answer = z.object({ yes: z.boolean() });

function chunk(name, data) {
  const checked = Buffer.concat([Buffer.from(name), data]);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(checked));
  return Buffer.concat([length, checked, sum]);
}

const size = 64;
const header = Buffer.from([0, 0, 0, size, 0, 0, 0, size, 8, 2, 0, 0, 0]);
const row = Buffer.concat([Buffer.from([0]), Buffer.alloc(3 * size, Buffer.from([255, 0, 0]))]);
const rows = Buffer.concat(Array(size).fill(row));
export const png = Buffer.concat([
  Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
  chunk("IHDR", header),
  chunk("IDAT", deflateSync(rows)),
  chunk("IEND", Buffer.alloc(0)),
]);
export const messages = [
  {
    role: "user",
    content: [
      { type: "text", text: "Describe the image." },
      { type: "image_url", image_url: { url: `data:image/png;base64,${png.toString("base64")}` } },
    ],
  },
];
