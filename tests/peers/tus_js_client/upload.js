'use strict';

// One upload by npm's tus-js-client.
//
//   node upload.js OPTIONS.json
//
// Options: modules (package.json beside node_modules), file, urls (a file that upload URLs outlive
// this process in), upload (tus-js-client's own options), stream (read the file as a stream, whose
// length nobody knows), stop_at (bytes after which this process dies), terminate_at (bytes after
// which the upload is taken back). It goes on with what an earlier process began.
// Prints a line {"url", "terminated"} at its end.

const Fs = require('fs');
const { createRequire } = require('module');
const { PassThrough } = require('stream');

const given = JSON.parse(Fs.readFileSync(process.argv[2], 'utf8'));
// The modules lie in the peers' cache, not beside this file.
const { FileUrlStorage, Upload } = createRequire(given.modules)('tus-js-client');

function tell(upload, terminated) {
  process.stdout.write(`${JSON.stringify({ url: upload.url, terminated })}\n`);
}

// Once this many bytes are on their way: no further ones go, and as soon as the client remembers the
// URLs of all parts, what is to happen happens.
async function interrupt(upload) {
  while (!(await upload.findPreviousUploads()).length) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  if (given.stop_at) process.kill(process.pid, 'SIGKILL');
  await upload.abort(true);
  tell(upload, true);
}

async function main() {
  const interruptAt = given.stop_at || given.terminate_at || Infinity;
  let interrupted = false;
  const file = Fs.createReadStream(given.file);
  const source = given.stream ? file.pipe(new PassThrough()) : file;
  const upload = new Upload(source, {
    ...given.upload,
    urlStorage: new FileUrlStorage(given.urls),
    fingerprint: async () => given.file,
    onBeforeRequest(request) {
      return interrupted && request.getMethod() === 'PATCH' ? new Promise(() => {}) : undefined;
    },
    onError(error) {
      process.stderr.write(`${error}\n`);
      process.exit(1);
    },
    onSuccess() {
      tell(upload, false);
    },
    onProgress(sent) {
      if (interrupted || sent < interruptAt) return;
      interrupted = true;
      interrupt(upload);
    },
  });
  const [earlier] = await upload.findPreviousUploads();
  if (earlier) upload.resumeFromPreviousUpload(earlier);
  upload.start();
}

main();
