// Writes each file of the kit into the directory that is named.
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as kit from "cctv-age"

const directory = process.argv[2]
mkdirSync(directory)
for (const [name, data] of Object.entries(kit.default ?? kit)) {
    writeFileSync(join(directory, name), data)
}
