//! Pages, links and anchors: errors that mdBook reports, and those that it does not.

use std::collections::BTreeSet;

use super::{blocks, documents, folder_of, pages, prose, read, root};

/// Returns the targets of Markdown links, `](target)`, outside code.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let outside_spans: String = prose.split('`').step_by(2).collect();
    let targets = outside_spans.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(String::from).collect()
}

/// Returns the anchor of a heading, as GitHub and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn every_page_is_in_the_summary_and_the_other_way_round() {
    let listed: Vec<String> =
        links(&read("docs/src/SUMMARY.md")).into_iter().map(|page| format!("docs/src/{page}")).collect();
    let unique: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(unique.len(), listed.len(), "a page is listed twice");
    let all = pages();
    let there: BTreeSet<&String> = all.iter().filter(|page| !page.ends_with("SUMMARY.md")).collect();
    assert_eq!(unique, there);
}

#[test]
fn every_link_and_anchor_resolves() {
    let mut broken = Vec::new();
    for document in documents() {
        for link in links(&read(&document)).iter().filter(|link| !link.contains("://")) {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if path.is_empty() { root().join(&document) } else { folder_of(&document).join(path) };
            if !target.exists() {
                broken.push(format!("{document} links to {link}, which does not exist"));
                continue;
            }
            let has_anchor = || anchors(&std::fs::read_to_string(&target).unwrap()).contains(fragment);
            if !fragment.is_empty() && !has_anchor() {
                broken.push(format!("{document} links to {link}, which has no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// A link out of the book works on a repository's page but is dead in the book.
#[test]
fn links_of_the_book_stay_in_the_book() {
    for page in pages() {
        for link in links(&read(&page)).iter().filter(|link| !link.contains("://")) {
            assert!(!link.contains('/'), "{page} links to {link}; name the path as code instead");
        }
    }
}

#[test]
fn every_page_begins_with_its_title() {
    for page in pages() {
        let text = read(&page);
        assert!(text.starts_with("# "), "{page}");
        assert!(blocks(&text).iter().all(|block| !block.text.is_empty()), "{page} has an empty code block");
    }
}

#[test]
fn links_and_anchors_are_found() {
    assert_eq!(links("[a](b.md#c) `[no](x)`\n```\n[no](y)\n```\n[d](#e)"), ["b.md#c", "#e"]);
    assert_eq!(anchor(" inspect, devices, completions"), "inspect-devices-completions");
    assert_eq!(anchor(" Choosing β"), "choosing-β");
}
