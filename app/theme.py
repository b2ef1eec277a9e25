"""How the page looks and what runs in the browser: Gradio's theme, app/page.css, app/page.js. Nothing is fetched from elsewhere."""

from __future__ import annotations

from pathlib import Path

import gradio

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
FIXED_FONTS = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")
CSS = Path(__file__).parent / "page.css"
HEAD = f"<script>{(Path(__file__).parent / 'page.js').read_text(encoding='utf-8')}</script>"


def theme() -> gradio.themes.Base:
    """Fonts of the system, so that none is fetched; text with a contrast of 4.5 and more, edges of what can be used with 3."""
    return gradio.themes.Base(
        primary_hue="teal", neutral_hue="slate", radius_size="sm", font=SYSTEM_FONTS, font_mono=FIXED_FONTS
    ).set(
        input_border_width="1px",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_500",
        input_border_color_focus="*primary_700",
        input_border_color_focus_dark="*primary_400",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_500",
        checkbox_border_color_selected="*primary_700",
        checkbox_border_color_selected_dark="*primary_500",
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
    )
