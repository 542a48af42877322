// An exported folder asked by transformers.js, in node and in a browser: ids and answers, in the order of the asks.
// node transformers_js.mjs FOLDER ASKS.json MODULES: MODULES/node_modules holds @huggingface/transformers.

/** What the model of this name says to {dtype, tokens, rows}: of each row its ids, its prompt's ids, its answer. */
export async function ask(library, name, { device, dtype, tokens, rows }) {
    const { AutoProcessor, Florence2ForConditionalGeneration, RawImage, env } = library;
    const options = { ...(device && { device }), ...(dtype && { dtype }) };
    const model = await Florence2ForConditionalGeneration.from_pretrained(name, options);
    const processor = await AutoProcessor.from_pretrained(name);
    const answers = [];
    for (const { picture, text, task } of rows) {
        const image = await RawImage.read(picture);
        const inputs = await processor(image, text);
        const out = await model.generate({ ...inputs, max_new_tokens: tokens });
        const [written] = processor.batch_decode(out, { skip_special_tokens: false });
        let answer = null;
        try {
            answer = processor.post_process_generation(written, task, image.size);
        } catch (error) {
            answer = { error: error.message };
        }
        const numbers = (tensor) => tensor.tolist()[0].map(Number);
        answers.push({ ids: numbers(out), prompt_ids: numbers(inputs.input_ids), answer });
    }
    return { version: env.version, answers };
}

if (typeof process !== 'undefined' && process.argv?.length === 5) {
    const { default: fs } = await import('node:fs');
    const { createRequire } = await import('node:module');
    const { default: path } = await import('node:path');
    const [folder, asks, modules] = process.argv.slice(2).map((name) => path.resolve(name));
    const library = createRequire(path.join(modules, 'x'))('@huggingface/transformers');
    library.env.allowRemoteModels = false;
    library.env.localModelPath = path.dirname(folder);
    console.log(JSON.stringify(await ask(library, path.basename(folder), JSON.parse(fs.readFileSync(asks, 'utf8')))));
}
