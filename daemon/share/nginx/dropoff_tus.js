// The virtual URL: @PREFIX@/<study's UUID>/… outside, @BASE@… at the tus server.
// Written by `dropoffd install nginx`, which also replaces it.
//
// A study is where its URL says, whatever the client writes into its metadata. What is not exactly
// such a URL never reaches the tus server: paths are compared as they were sent, before nginx
// decodes or merges anything in them.

const PREFIX = "@PREFIX@/";
const BASE = "@BASE@";
// The key of Upload-Metadata that holds the study.
const KEY = "@KEY@";
// Whether the tus server keeps each upload below its study: dropoffd's `[hooks] study_ids`.
const STUDY_IDS = @NESTED@;

const UUID = /^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$/;
const UPLOAD = /^[0-9A-Za-z_~+-][0-9A-Za-z._~+-]{0,127}$/;
// A key, and behind one space its value in base64. tus servers differ in what they make of anything
// else, so nothing else gets to them.
const PAIR = /^[ \t]*([!-+\--~]+)(?: ([A-Za-z0-9+\/]*={0,2}))?[ \t]*$/;
const URL_PARTS = /^(https?:\/\/[^\/?#\s]+)?(\/[^?#\s]*)$/i;

// Whether this request may pass: "ok", or the status that it is answered with.
function verdict(r) {
    if (place(r) === null) {
        return "404";
    }
    return pairs(r) === null || parts(r) === null ? "400" : "ok";
}

// The path at the tus server.
function target(r) {
    const found = place(r);
    return found === null ? "" : inward(found);
}

// Upload-Metadata, with the URL's study in place of any that the client names.
function metadata(r) {
    const found = place(r);
    const others = pairs(r);
    if (found === null || others === null) {
        return "";
    }
    return others.concat(KEY + " " + Buffer.from(found.study).toString("base64")).join(",");
}

// Upload-Concat, with the virtual URLs of its parts as the tus server knows them.
function concat(r) {
    return parts(r) || "";
}

// Puts the URLs of an answer below the virtual one.
function answer(r) {
    const found = place(r);
    if (found === null) {
        return;
    }
    // The server's own is hidden: replaced here, HTTP/2 would carry both.
    const location = r.variables.upstream_http_location;
    if (location) {
        r.headersOut["Location"] = outward(r, found.study, location);
    }
    const whole = /^(final; ?)(.*)$/.exec(r.headersOut["Upload-Concat"] || "");
    if (whole !== null) {
        const urls = whole[2].split(" ");
        r.headersOut["Upload-Concat"] =
            whole[1] + urls.map((url) => outward(r, found.study, url)).join(" ");
    }
}

function place(r) {
    return parse(r.variables.request_uri.split("?")[0]);
}

// The study and, where it has one, the upload of a virtual path; null for any other path.
function parse(path) {
    if (!path.startsWith(PREFIX)) {
        return null;
    }
    const steps = path.slice(PREFIX.length).split("/");
    const upload = steps.length === 2 ? steps[1] : "";
    if (steps.length > 2 || !UUID.test(steps[0]) || (upload !== "" && !UPLOAD.test(upload))) {
        return null;
    }
    return { study: steps[0].toLowerCase(), upload: upload };
}

function inward(found) {
    return BASE + (STUDY_IDS && found.upload !== "" ? found.study + "/" : "") + found.upload;
}

function outward(r, study, url) {
    const found = URL_PARTS.exec(url);
    if (found === null || !found[2].startsWith(BASE)) {
        return url;
    }
    const steps = found[2].slice(BASE.length).split("/");
    const upload = steps.pop();
    if (STUDY_IDS !== (steps.length === 1 && steps[0] === study) || steps.length > 1) {
        r.error("the tus server's " + url + " doesn't fit [hooks] study_ids");
    }
    const host = r.variables.http_host;
    let origin = found[1] || "";
    if (host && origin.toLowerCase().replace(/^https?:\/\//, "") === host.toLowerCase()) {
        // The server can't know whether the client came by https.
        origin = r.variables.scheme + "://" + host;
    }
    return origin + PREFIX + study + "/" + upload;
}

// The pairs of Upload-Metadata other than the study, as they were sent; null where one is none.
function pairs(r) {
    const text = values(r, "upload-metadata").join(",");
    const seen = {};
    const kept = [];
    if (text === "") {
        return kept;
    }
    const all = text.split(",");
    for (let i = 0; i < all.length; i++) {
        const found = PAIR.exec(all[i]);
        if (found === null || (found[2] || "").length % 4 !== 0) {
            return null;
        }
        if (found[1].toLowerCase() === KEY.toLowerCase()) {
            continue;
        }
        if (seen["=" + found[1]]) {
            return null;
        }
        seen["=" + found[1]] = true;
        kept.push(all[i]);
    }
    return kept;
}

// Upload-Concat for the tus server; null where it is malformed, or names another study's upload.
function parts(r) {
    const found = place(r);
    const sent = values(r, "upload-concat");
    if (sent.length === 0 || found === null) {
        return "";
    }
    if (sent.length === 1 && sent[0] === "partial") {
        return "partial";
    }
    if (sent.length > 1 || !sent[0].startsWith("final;")) {
        return null;
    }
    const urls = sent[0].slice("final;".length).trim().split(/ +/);
    for (let i = 0; i < urls.length; i++) {
        const url = URL_PARTS.exec(urls[i]);
        const part = url === null ? null : parse(url[2]);
        if (part === null || part.upload === "" || part.study !== found.study) {
            return null;
        }
        urls[i] = inward(part);
    }
    return "final;" + urls.join(" ");
}

// All that was sent under a header's name, in its order, without empty ones.
function values(r, name) {
    const found = [];
    for (let i = 0; i < r.rawHeadersIn.length; i++) {
        if (r.rawHeadersIn[i][0].toLowerCase() === name && r.rawHeadersIn[i][1].trim() !== "") {
            found.push(r.rawHeadersIn[i][1]);
        }
    }
    return found;
}

export default { verdict, target, metadata, concat, answer };
