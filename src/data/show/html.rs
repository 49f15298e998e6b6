//! A page that needs nothing else and runs nothing.

use super::escape::pictured;
use super::shown::{Section, Shown, counted};

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Records</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #1a1a1a; background: #fff; }
h2 { font-size: 1em; margin: 2em 0 0.5em; } h3 { font-size: 0.85em; font-weight: normal; color: #666; margin: 0.8em 0 0.2em; }
p { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; color: #777; }
.a, .b { color: #1a1a1a; } .a { background: #cfe8ef; } .b { background: #f3e6bd; }
.special { background: #333; color: #fff; border-radius: 2px; } .a.special, .b.special { background: #7a1f5c; }
</style>
<p>Scored tokens have a background, special tokens are light on dark. The title of a token is its number.</p>
"#;

/// Writes a page of records.
pub fn page(records: &[Shown]) -> String {
    let mut html = String::from(HEAD);
    for shown in records {
        html.push_str(&format!("<h2>{}</h2>\n", escaped(&shown.title)));
        for section in &shown.sections {
            html.push_str(&format!("<h3>{}</h3>\n<p>{}</p>\n", escaped(&section.title), body(section)));
        }
    }
    html.push_str("</html>\n");
    html
}

fn body(section: &Section) -> String {
    let (mut html, mut scored) = (String::new(), 0);
    for (index, span) in section.spans.iter().enumerate() {
        if let Some((_, count)) = section.gap.filter(|(before, _)| *before == index) {
            html.push_str(&format!("\n... {} ...\n", counted(count)));
        }
        let mut classes: Vec<&str> = Vec::new();
        if span.is_scored {
            classes.push(["a", "b"][scored % 2]);
            scored += 1;
        }
        if span.is_special {
            classes.push("special");
        }
        let ids: Vec<String> = span.ids.iter().map(u32::to_string).collect();
        let class =
            if classes.is_empty() { String::new() } else { format!(" class=\"{}\"", classes.join(" ")) };
        let title = if ids.is_empty() { String::new() } else { format!(" title=\"{}\"", ids.join(" ")) };
        html.push_str(&format!("<span{class}{title}>{}</span>", escaped(&span.text)));
        if span.text.ends_with('\n') {
            html.push('\n');
        }
    }
    html
}

/// Text without a meaning for HTML.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in pictured(text).chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}
