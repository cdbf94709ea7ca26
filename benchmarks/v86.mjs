// Runs a multiboot kernel in v86, its first serial port on standard output.
//     node v86.mjs LIBRARY.mjs BIOS VGA-BIOS KERNEL COMMAND-LINE [DISK]
import { pathToFileURL } from "node:url";

const [library, bios, video, kernel, line, disk] = process.argv.slice(2);
const { V86 } = await import(pathToFileURL(library).href);
const machine = new V86({
    wasm_path: library.replace(/libv86\.mjs$/, "v86.wasm"),
    bios: { url: bios },
    vga_bios: { url: video },
    multiboot: { url: kernel },
    cmdline: line,
    memory_size: 128 << 20,
    vga_memory_size: 8 << 20,
    uart1: true,
    disable_jit: false,
    autostart: true,
    ...(disk ? { hda: { url: disk } } : {}),
});
machine.add_listener("serial0-output-byte", (byte) => process.stdout.write(Buffer.from([byte])));
