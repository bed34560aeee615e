//! `report.html`: one file that needs no network, for the screen and for paper.

use minijinja::Environment;
use serde::Serialize;

use super::format::{self, Unit};
use super::table::{self, Table};
use super::{latency, notes, words};
use crate::error::{Error, Result};
use crate::study::summary::{Summary, Verdict};

const TEMPLATE: &str = include_str!("template.html");

#[derive(Serialize)]
struct Page<'a> {
    model: &'a str,
    device: &'a str,
    batch: String,
    version: &'a str,
    headline: String,
    verdict: &'static str,
    stop: String,
    subject: Option<usize>,
    chosen: bool,
    tiles: Vec<Tile>,
    front_svg: &'a str,
    layers_svg: &'a str,
    drops_svg: Option<&'a str>,
    front: Table,
    latency: String,
    footnote: Option<String>,
    layers: Table,
    rollback: Table,
    outcomes: Table,
    facts: Table,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Tile {
    title: String,
    float: String,
    now: String,
    change: String,
}

/// The page, with the pictures drawn by [`super::plot`] set into it: the front, the layers, and predicted drops if there are any.
///
/// # Errors
/// [`Error::Internal`] if the template does not fit its data.
pub fn page(summary: &Summary, (front_svg, layers_svg, drops_svg): (&str, &str, Option<&str>)) -> Result<String> {
    let page = Page {
        model: &summary.model,
        device: &summary.device,
        batch: format::count(summary.batch as u64),
        version: &summary.facts.version,
        headline: words::headline(summary),
        verdict: match summary.verdict {
            Verdict::Certain => "certain",
            Verdict::Likely => "likely",
            Verdict::Unjudged => "unjudged",
            Verdict::Missed => "missed",
        },
        stop: words::stop(&summary.stop),
        subject: words::subject(summary).map(|p| p.trial),
        chosen: words::chosen(summary).is_some(),
        tiles: tiles(summary),
        front_svg,
        layers_svg,
        drops_svg,
        front: table::front(summary),
        latency: latency::sentences(summary).join(" "),
        footnote: latency::footnote(summary),
        layers: table::layers(summary),
        rollback: table::rollback(summary),
        outcomes: table::outcomes(summary),
        facts: table::facts(summary),
        notes: notes(summary),
    };
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_template("report.html", TEMPLATE).map_err(internal)?;
    environment.get_template("report.html").and_then(|template| template.render(page)).map_err(internal)
}

fn internal(error: minijinja::Error) -> Error {
    Error::Internal(format!("the report's template: {error}"))
}

fn tiles(summary: &Summary) -> Vec<Tile> {
    let (unit, base) = (Unit::of(&summary.metric), &summary.baseline);
    let Some(point) = words::subject(summary) else {
        return Vec::new();
    };
    let fall = match unit.interval(point.drop_low, point.drop_high) {
        Some(interval) => format!("drop {} ({interval})", unit.drop_in_words(point.drop)),
        None => format!("drop {}", unit.drop_in_words(point.drop)),
    };
    let interval_ms = point.latency_interval_ms.map(|i| format!("; 90 % interval {}", latency::between(i))).unwrap_or_default();
    vec![
        Tile { title: summary.metric.clone(), float: unit.value(base.accuracy), now: unit.value(point.accuracy), change: fall },
        Tile {
            title: "predicted latency".into(),
            float: format::millis(base.latency_ms),
            now: format::millis(point.latency_ms),
            change: format!("{} of float{interval_ms}", format::ratio(point.latency_ms, base.latency_ms)),
        },
        Tile {
            title: "deployed size".into(),
            float: format::bytes(base.bytes),
            now: format::bytes(point.bytes),
            change: format::change(point.bytes as f64, base.bytes as f64),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::{fixture, plot};
    use super::*;

    fn rendered(summary: &Summary) -> String {
        let drops = plot::drops_svg(summary).unwrap();
        page(summary, (&plot::front_svg(summary).unwrap(), &plot::layers_svg(summary).unwrap(), drops.as_deref())).unwrap()
    }

    #[test]
    fn a_page_asks_for_nothing_from_outside() {
        for (name, summary) in fixture::all() {
            let page = rendered(&summary).replace("http://www.w3.org/2000/svg", "");
            for outside in ["http", "src=", "@import", "url(", "<script", "<link"] {
                assert!(!page.contains(outside), "{name}: {outside}");
            }
        }
    }

    #[test]
    fn names_from_the_users_files_are_escaped_everywhere() {
        let mut summary = fixture::within();
        let evil = "<img onerror=x>&\"";
        summary.model = evil.into();
        summary.device = evil.into();
        summary.metric = evil.into();
        summary.layers[0].layer = evil.into();
        summary.layers[0].op = evil.into();
        summary.cloud[0].why = evil.into();
        summary.facts.latency_model = evil.into();
        let page = rendered(&summary);
        assert!(!page.contains("<img"));
        assert!(page.contains("&lt;img"));
    }

    #[test]
    fn a_page_shows_only_the_parts_that_have_something_to_say() {
        let (within, empty) = (rendered(&fixture::within()), rendered(&fixture::empty()));
        for part in ["id=\"front\"", "id=\"plan\"", "id=\"rollback\"", "class=\"tiles\""] {
            assert!(within.contains(part), "{part}");
            assert!(!empty.contains(part), "{part}");
        }
        assert!(empty.contains("id=\"facts\"") && empty.contains("id=\"notes\""));
    }

    #[test]
    fn a_page_is_well_formed_as_far_as_its_tags_go() {
        let page = rendered(&fixture::within());
        for tag in ["table", "section", "figure", "svg", "tr", "td", "div", "ul", "li", "main"] {
            assert_eq!(
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count(),
                page.matches(&format!("</{tag}>")).count(),
                "{tag}"
            );
        }
    }

    #[test]
    fn the_page_without_its_pictures_is_this() {
        insta::assert_snapshot!(page(&fixture::missed(), ("<svg></svg>", "<svg></svg>", None)).unwrap());
    }
}
