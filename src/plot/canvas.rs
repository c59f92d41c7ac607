//! A sheet to draw on, and the markup around what is drawn.

use plotters::backend::SVGBackend;
use plotters::coord::Shift;
use plotters::prelude::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea, RGBColor};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoFont, TextStyle};

/// Words, and what matters most.
pub(super) const INK: RGBColor = RGBColor(0x1b, 0x27, 0x33);
/// What matters less.
pub(super) const MUTED: RGBColor = RGBColor(0x5b, 0x6b, 0x7a);
/// Lines to read others by.
pub(super) const GRID: RGBColor = RGBColor(0xc9, 0xd3, 0xdc);
/// What is drawn on.
pub(super) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
/// What the picture is about.
pub(super) const ACCENT: RGBColor = RGBColor(0x1f, 0x6f, 0xb2);
/// What is wrong.
pub(super) const ALARM: RGBColor = RGBColor(0xb3, 0x26, 0x1e);

/// Where a picture is drawn: pixels from the upper left.
pub(super) type Sheet<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What drawing on one gives.
pub(super) type Drawn<'a> =
    Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as plotters::prelude::DrawingBackend>::ErrorType>>;

/// A picture of this size, with a title for those who cannot see it, and markup on top of what is drawn.
pub(super) fn picture(
    size: (u32, u32),
    title: &str,
    draw: impl for<'a> FnOnce(&Sheet<'a>) -> Drawn<'a>,
    on_top: &str,
) -> String {
    let mut drawn = String::new();
    {
        let sheet = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let done = sheet.fill(&PAPER).and_then(|()| draw(&sheet)).and_then(|()| sheet.present());
        done.expect("drawing into memory succeeds");
    }
    // Its own head has a size in pixels, which a page would have to take away again.
    let body = drawn.split_once('>').map_or("", |(_, body)| body);
    let body = body.trim_end().strip_suffix("</svg>").unwrap_or(body);
    let (width, height) = size;
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" class=\"plot\">\n\
         <title>{title}</title>{body}{on_top}</svg>\n"
    )
}

/// Text as markup has it. Characters that XML has no way to write are shown as such.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Letters of this height.
pub(super) fn letters(height: u32, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", f64::from(height) * 1.24).into_font().color(&colour)
}

/// Letters that stand around a point as said.
pub(super) fn around(height: u32, colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    letters(height, colour).pos(Pos::new(horizontal, vertical))
}

/// The colour as markup has it.
pub(super) fn hex(colour: (u8, u8, u8)) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

/// Filled with less than the whole colour.
pub(super) fn faint(colour: RGBColor, alpha: f64) -> plotters::style::ShapeStyle {
    colour.mix(alpha).filled()
}
