//! The page that every node serves: static files, which anybody may have. What it shows it asks for like any other client.
//!
//! Nothing of it comes from elsewhere, and a browser is told to keep it so.

use tonic::body::Body;
use tonic::codegen::http::Response;

use super::with_type;

/// What the page is written in.
pub(super) const HTML: &str = "text/html; charset=utf-8";

/// What browsers let the page, and whatever else is opened as one, do: load its own parts, ask its own node, be nobody's frame.
pub(super) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub(super) const INDEX: &str = include_str!("page/index.html");

/// A file that the page consists of.
pub(super) struct Part {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

const PARTS: [Part; 9] = [
    Part {
        path: "/page/style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("page/style.css"),
    },
    Part { path: "/page/icon.svg", content_type: super::SVG, text: include_str!("page/icon.svg") },
    Part { path: "/page/page.js", content_type: SCRIPT, text: include_str!("page/page.js") },
    Part { path: "/page/node.js", content_type: SCRIPT, text: include_str!("page/node.js") },
    Part { path: "/page/overlay.js", content_type: SCRIPT, text: include_str!("page/overlay.js") },
    Part { path: "/page/graph.js", content_type: SCRIPT, text: include_str!("page/graph.js") },
    Part { path: "/page/explore.js", content_type: SCRIPT, text: include_str!("page/explore.js") },
    Part { path: "/page/commands.js", content_type: SCRIPT, text: include_str!("page/commands.js") },
    Part { path: "/page/map.js", content_type: SCRIPT, text: include_str!("page/map.js") },
];

/// The part of the page at a path.
pub(super) fn part(path: &str) -> Option<&'static Part> {
    PARTS.iter().find(|part| part.path == path)
}

impl Part {
    /// The answer.
    pub(super) fn response(&self) -> Response<Body> {
        with_type(self.content_type, Body::new(self.text.to_owned()))
    }
}
