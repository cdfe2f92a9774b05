//! Bars as SVG: the median of each figure, and a line from its smallest to its largest value.

use std::fmt::Write;

use crate::figures::Line;

const ROW: usize = 26;
const LEFT: usize = 600;
const WIDTH: usize = 420;

/// All of one unit, one below the other.
pub fn bars(unit: &str, lines: &[&Line]) -> String {
    let most = lines.iter().map(|line| line.spread().2).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT as f64 + value / most * WIDTH as f64;
    let height = ROW * lines.len() + 44;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" font-weight=\"bold\">{}</text>\n",
        LEFT + WIDTH + 110,
        escaped(unit)
    );
    for (at, line) in lines.iter().enumerate() {
        let (low, middle, high) = line.spread();
        let top = 36 + at * ROW;
        let center = top + 10;
        let workload = if line.workload.is_empty() { String::new() } else { format!("{}: ", line.workload) };
        let colour = if line.name.starts_with("relay") { "#2a6fb0" } else { "#9aa5b1" };
        let digits = if middle < 100.0 { 1 } else { 0 };
        let (left, middle_x, low_x, high_x) = (LEFT - 8, x(middle), x(low), x(high));
        let label = escaped(&format!("{workload}{}", line.name));
        write!(
            svg,
            "<text x=\"{left}\" y=\"{text}\" text-anchor=\"end\">{label}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{width:.1}\" height=\"20\" fill=\"{colour}\"/>\n\
             <line x1=\"{low_x:.1}\" x2=\"{high_x:.1}\" y1=\"{center}\" y2=\"{center}\" stroke=\"black\" stroke-width=\"2\"/>\n\
             <text x=\"{value:.1}\" y=\"{text}\">{middle:.digits$}</text>\n",
            text = center + 5,
            width = middle_x - LEFT as f64,
            value = high_x.max(middle_x) + 6.0,
        )
        .expect("writing to a string does not fail");
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
