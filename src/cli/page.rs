//! What xray found as a picture, and as a page with it: one file, without scripts and without
//! anything from elsewhere.

use std::fmt::Write;

use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::legend;
use crate::ops::xray::Findings;
use crate::ops::xray::TensorXray;
use crate::ops::xray::XrayReport;

/// The picture's width, and where its plots begin and end, in pixels.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 950.0;
/// Height of a plot, and of what stands between two.
const PLOT: f64 = 150.0;
const GAP: f64 = 56.0;
const TOP: f64 = 40.0;

/// Colours of sign, exponent and mantissa, and of what else is drawn.
const SIGN: &str = "#c44e52";
const EXPONENT: &str = "#dd8452";
const MANTISSA: &str = "#4c72b0";
const INK: &str = "#333";
const LINE: &str = "#bbb";
const FLAGGED: &str = "#c44e52";

/// Text as it may stand in a page, whatever it is: names come from files of strangers.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A tensor whose numbers were looked at, and how many bits each of them has.
type JudgedTensor<'a> = (&'a TensorXray, &'a Findings, f64);

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn judged(report: &XrayReport) -> Vec<JudgedTensor<'_>> {
    let of = |tensor: &'_ TensorXray| {
        let elements: u64 = tensor.shape.iter().product();
        tensor.bytes as f64 * 8.0 / elements.max(1) as f64
    };
    report
        .tensors
        .iter()
        .filter_map(|tensor| Some((tensor, tensor.findings.as_ref()?, of(tensor))))
        .collect()
}

/// Where tensor `number` of `count` begins, and how wide it is.
#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn column(number: usize, count: usize) -> (f64, f64) {
    let width = (RIGHT - LEFT) / count.max(1) as f64;
    (LEFT + width * number as f64, width)
}

fn top_of(plot: u32) -> f64 {
    TOP + f64::from(plot) * (PLOT + GAP)
}

fn heading(out: &mut String, plot: u32, text: &str) {
    let y = top_of(plot);
    let _ = write!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.0}\" font-size=\"14\" fill=\"{INK}\">{text}</text>",
        y - 10.0
    );
    let _ = write!(
        out,
        "<rect x=\"{LEFT}\" y=\"{y:.0}\" width=\"{:.0}\" height=\"{PLOT}\" fill=\"none\" stroke=\"{LINE}\"/>",
        RIGHT - LEFT
    );
}

fn label(out: &mut String, y: f64, text: &str) {
    let _ = write!(
        out,
        "<text x=\"{:.0}\" y=\"{:.0}\" font-size=\"11\" text-anchor=\"end\" fill=\"{INK}\">{text}</text>",
        LEFT - 6.0,
        y + 4.0
    );
}

/// The picture.
pub(super) fn svg(report: &XrayReport) -> String {
    let judged = judged(report);
    let height = top_of(3) + 20.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    planes(&mut out, &judged);
    deviations(&mut out, &judged);
    structure(&mut out, &judged);
    out.push_str("</svg>");
    out
}

/// What part of each tensor's bits carries something.
fn planes(out: &mut String, judged: &[JudgedTensor<'_>]) {
    let legend = format!(
        "Bits that carry something, of each tensor in the order of the file: \
         <tspan fill=\"{MANTISSA}\">mantissa</tspan>, <tspan fill=\"{EXPONENT}\">exponent</tspan>, <tspan fill=\"{SIGN}\">sign</tspan>"
    );
    heading(out, 0, &legend);
    let bottom = top_of(0) + PLOT;
    for percent in [0, 50, 100] {
        label(
            out,
            bottom - PLOT * f64::from(percent) / 100.0,
            &format!("{percent} %"),
        );
    }
    for (number, (tensor, found, bits)) in judged.iter().enumerate() {
        if *bits <= 0.0 {
            // without elements there are no bits
            continue;
        }
        let (x, width) = column(number, judged.len());
        let low = found.floor_percent / 100.0 * bits - found.entropy.sign - found.entropy.exponent;
        let parts = [
            (low.max(found.entropy.mantissa), MANTISSA),
            (found.entropy.exponent, EXPONENT),
            (found.entropy.sign, SIGN),
        ];
        let _ = write!(out, "<g><title>{}</title>", escaped(&tensor.name));
        let mut y = bottom;
        for (entropy, colour) in parts {
            let tall = (PLOT * entropy / bits).max(0.0);
            y -= tall;
            let _ = write!(
                out,
                "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{tall:.2}\" fill=\"{colour}\"/>"
            );
        }
        out.push_str("</g>");
    }
}

fn dot(out: &mut String, (x, y): (f64, f64), tensor: &TensorXray, is_flagged: bool) {
    let colour = if is_flagged { FLAGGED } else { MANTISSA };
    let _ = write!(
        out,
        "<circle cx=\"{x:.2}\" cy=\"{y:.2}\" r=\"3\" fill=\"{colour}\" fill-opacity=\"0.8\"><title>{}</title></circle>",
        escaped(&tensor.name)
    );
}

/// Deviations from zero on a logarithmic scale.
fn deviations(out: &mut String, judged: &[JudgedTensor<'_>]) {
    heading(out, 1, "Root mean square of each tensor");
    let logs = judged.iter().map(|(_, found, _)| found.rms.log10());
    let finite = logs.clone().filter(|log| log.is_finite());
    let (least, most) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), log| {
        (least.min(log), most.max(log))
    });
    if least > most {
        return;
    }
    let (least, most) = (least.floor(), most.ceil().max(least.floor() + 1.0));
    let bottom = top_of(1) + PLOT;
    let height = |log: f64| bottom - PLOT * (log - least) / (most - least);
    for log in [least, most] {
        label(out, height(log), &format!("1e{}", log as i32));
    }
    for (number, ((tensor, found, _), log)) in judged.iter().zip(logs).enumerate() {
        let (x, width) = column(number, judged.len());
        if log.is_finite() {
            let is_flagged = !found.flags.is_empty();
            dot(out, (x + width / 2.0, height(log)), tensor, is_flagged);
        }
    }
}

/// How much rows and columns differ, on a logarithmic scale, with the line below which chance
/// explains it.
fn structure(out: &mut String, judged: &[JudgedTensor<'_>]) {
    const MOST: f64 = 1e5;
    heading(
        out,
        2,
        "How much rows or columns of each matrix differ, in deviations of chance: below the line as random numbers do",
    );
    let bottom = top_of(2) + PLOT;
    let height = |value: f64| bottom - PLOT * value.clamp(1.0, MOST).log10() / MOST.log10();
    for (value, text) in [(1.0, "1"), (3.0, "3"), (100.0, "100"), (MOST, "1e5")] {
        label(out, height(value), text);
    }
    let y = height(3.0);
    let _ = write!(
        out,
        "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{FLAGGED}\" stroke-dasharray=\"4 3\"/>"
    );
    for (number, (tensor, found, _)) in judged.iter().enumerate() {
        let Some(sides) = found.structure else {
            continue;
        };
        let (x, width) = column(number, judged.len());
        let most = sides
            .iter()
            .fold(0.0_f64, |most, side| most.max(side.abs()));
        let is_flagged = found.flags.contains(&crate::ops::xray::Flag::Unstructured);
        dot(out, (x + width / 2.0, height(most)), tensor, is_flagged);
    }
}

/// A page for a person.
pub(super) fn html(report: &XrayReport) -> String {
    let name = report
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let name = escaped(&name);
    let bytes = report.tensors.iter().map(|tensor| tensor.bytes).sum();
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{name}</title><style>\
         body{{font-family:sans-serif;color:{INK};max-width:{WIDTH}px;margin:2em auto;padding:0 8px}}\
         svg{{max-width:100%;height:auto}}.t{{overflow-x:auto}}dt{{font-weight:bold;float:left;clear:left;margin-right:8px}}\
         table{{border-collapse:collapse;font-size:12px}}td,th{{padding:2px 8px;text-align:right;border-bottom:1px solid #eee}}\
         td:first-child,th:first-child,td:last-child,th:last-child{{text-align:left}}td:first-child{{font-family:monospace;overflow-wrap:anywhere}}\
         .f{{color:{FLAGGED}}}</style></head><body><h1>{name}</h1><p>{}, {}.</p>",
        counted(report.tensors.len() as u64, "tensor"),
        human_bytes(bytes)
    );
    let _ = write!(out, "<p>{}</p>", escaped(&legend::verdict(report)));
    out.push_str(&svg(report));
    definitions(&mut out, report);
    out.push_str(
        "<div class=\"t\"><table><tr><th>tensor</th><th>dtype</th><th>elements</th><th>sign</th><th>exponent</th><th>mantissa</th>\
         <th>of normal numbers</th><th>floor</th><th>rms</th><th>min</th><th>max</th><th>flags</th></tr>",
    );
    for tensor in &report.tensors {
        row(&mut out, tensor);
    }
    out.push_str("</table></div></body></html>\n");
    out
}

/// What the columns and the flags say.
fn definitions(out: &mut String, report: &XrayReport) {
    out.push_str("<dl>");
    for (word, meaning) in legend::COLUMNS.into_iter().chain(legend::flags(report)) {
        let _ = write!(out, "<dt>{word}</dt><dd>{meaning}</dd>");
    }
    out.push_str("</dl>");
}

/// A number; nothing where there is none, as of a tensor without finite elements.
fn number(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.3e}")
    } else {
        String::new()
    }
}

fn row(out: &mut String, tensor: &TensorXray) {
    let elements: u64 = tensor.shape.iter().product();
    let _ = write!(
        out,
        "<tr><td>{}</td><td>{}</td><td>{elements}</td>",
        escaped(&tensor.name),
        escaped(&tensor.dtype)
    );
    let Some(found) = &tensor.findings else {
        out.push_str("<td colspan=\"9\"></td></tr>");
        return;
    };
    let control = found.control.map_or_else(String::new, |control| {
        format!("{:.2} + {:.2}", control.exponent, control.mantissa)
    });
    let flags: Vec<&str> = found.flags.iter().map(|flag| flag.name()).collect();
    let entropy = found.entropy;
    let _ = write!(
        out,
        "<td>{:.3}</td><td>{:.2}</td><td>{:.2}</td><td>{control}</td><td>{:.1} %</td><td>{}</td><td>{}</td><td>{}</td><td class=\"f\">{}</td></tr>",
        entropy.sign,
        entropy.exponent,
        entropy.mantissa,
        found.floor_percent,
        number(found.rms),
        number(found.min),
        number(found.max),
        flags.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_becomes_part_of_the_page() {
        let tensor = TensorXray {
            name: "</td><script>alert(1)</script>\"'&\u{1b}".into(),
            dtype: "I64".into(),
            shape: vec![1],
            bytes: 8,
            findings: None,
            concentration: None,
        };
        let report = XrayReport {
            path: "<b>.safetensors".into(),
            tensors: vec![tensor],
            flags: std::collections::BTreeMap::new(),
            nans: 0,
            infinities: 0,
            f32_bytes: 0,
            bf16_in_f32_bytes: 0,
            f16_in_f32_bytes: 0,
            judged_bytes: 0,
            unstructured_bytes: 0,
            looks_untrained: false,
        };
        let page = html(&report);
        assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains('\u{1b}'));
        assert!(page.contains("&lt;script&gt;") && page.contains("&quot;&#39;&amp;"));
    }
}
