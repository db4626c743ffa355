"""The area that takes a ZIP or a tar by drag and drop, or from a file dialog, and shows how far its upload is."""

from __future__ import annotations

from collections.abc import Callable

from nicegui.element import Element
from nicegui.events import GenericEventArguments

from services.dashboard.elements.html import box, styled, text

# Sends the file as it is to /uploads/<name>, which passes it on to the API while it arrives.
SEND = """
    const send = (area, file) => {
        const status = area.querySelector('[role=status]'), bar = area.querySelector('.bar'), done = bar.firstChild;
        const name = file.name.replace(/(\\.tar)?\\.(zip|tar|tgz|gz|bz2|xz)$/i, '');
        const request = new XMLHttpRequest();
        area.classList.remove('is-over', 'is-refused');
        area.classList.add('is-busy');
        request.upload.onprogress = (event) => {
            const share = event.loaded / event.total;
            done.style.width = (100 * share) + '%';
            bar.setAttribute('aria-valuenow', Math.round(100 * share));
            status.textContent = share < 1 ? `Sending ${file.name}: ${Math.round(100 * share)} %`
                                           : `${file.name} has arrived; its images are being read.`;
        };
        request.onloadend = () => {
            area.classList.remove('is-busy');
            let answer = {};
            try { answer = JSON.parse(request.responseText); } catch {}
            if (request.status === 200) {
                status.textContent = `${file.name} is a data set now.`;
                emit(answer);
                return;
            }
            area.classList.add('is-refused');
            status.textContent = answer.detail || `${file.name} could not be sent; the connection broke.`;
        };
        request.open('PUT', '/uploads/' + encodeURIComponent(name));
        request.send(file);
        status.textContent = `Sending ${file.name}`;
    };
"""
ON_DROP = f"""(event) => {{ {SEND}
    event.preventDefault();
    const area = event.currentTarget, file = event.dataTransfer.files[0];
    if (file && !area.classList.contains('is-busy')) send(area, file);
}}"""
ON_CHOICE = f"""(event) => {{ {SEND}
    const area = event.currentTarget.closest('.drop'), file = event.currentTarget.files[0];
    if (file && !area.classList.contains('is-busy')) send(area, file);
    event.currentTarget.value = '';
}}"""
ON_DRAG = "(event) => { event.preventDefault(); event.currentTarget.classList.add('is-over'); }"
ON_LEAVE = "(event) => event.currentTarget.classList.remove('is-over')"


def draw_upload(on_end: Callable[[GenericEventArguments], None]) -> None:
    """`on_end` gets an event whose `args` hold the name of the new data set. The area shows why a file is refused."""
    with box("drop", tag="section", **{"aria-label": "Push a data set"}) as area:
        text("Drop a ZIP of your images here", "p", "drop-title")
        text("One folder per class, with or without train and test above them; or one folder of images.", "p", "help")
        with box("button primary", "label"):
            text("Choose a file", "span")
            chooser = styled(Element("input"), "unseen", {"type": "file", "accept": ".zip,.tar,.tgz,.gz,.bz2,.xz"})
            chooser.props["aria-label"] = "Choose a ZIP or a tar"
        with box("bar", role="progressbar", **{"aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "Upload"}):
            box()
        text("", "p", "status", role="status")
    area.on("dragover", js_handler=ON_DRAG)
    area.on("dragleave", js_handler=ON_LEAVE)
    area.on("drop", on_end, js_handler=ON_DROP)
    chooser.on("change", on_end, js_handler=ON_CHOICE)
