//! A small chart as SVG: a line over the last ten minutes. Pure: points in, text out.

use std::fmt::Write;

use super::Point;

/// In the SVG's own units.
const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 48.0;

/// The line of one value, with the time from left to right and the largest value at the top. Nothing for less than two points.
pub fn line(points: &[Point], value: impl Fn(&Point) -> f64) -> Option<String> {
    let (first, last) = (points.first()?.at, points.last()?.at);
    let most = points.iter().map(&value).fold(0.0, f64::max);
    if last <= first {
        return None;
    }
    let mut path = String::new();
    for point in points {
        let x = (point.at - first) / (last - first) * WIDTH;
        let y = HEIGHT - 1.0 - if most > 0.0 { value(point) / most * (HEIGHT - 4.0) } else { 0.0 };
        let step = if path.is_empty() { 'M' } else { 'L' };
        write!(path, "{step}{x:.1} {y:.1}").expect("a string takes it");
    }
    Some(path)
}

/// The box that [`line`] draws in.
pub fn view_box() -> String {
    format!("0 0 {WIDTH} {HEIGHT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: f64, waiting: f64) -> Point {
        Point { at, waiting, ..Point::default() }
    }

    #[test]
    fn the_largest_value_is_at_the_top_and_nothing_at_the_bottom() {
        let points = [point(0.0, 0.0), point(5.0, 10.0), point(10.0, 5.0)];
        let path = line(&points, |point| point.waiting);
        assert_eq!(path.as_deref(), Some("M0.0 47.0L120.0 3.0L240.0 25.0"));
        assert_eq!(line(&points, |_| 0.0).as_deref(), Some("M0.0 47.0L120.0 47.0L240.0 47.0"));
    }

    #[test]
    fn one_point_is_no_line() {
        assert_eq!(line(&[], |point| point.waiting), None);
        assert_eq!(line(&[point(1.0, 1.0)], |point| point.waiting), None);
    }
}
