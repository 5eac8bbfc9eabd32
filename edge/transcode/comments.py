"""Comments of the protos, by the full name of what they explain. Only a descriptor set keeps them."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2

# Field numbers in descriptor.proto, which a source location's path is made of.
_FILE_CHILDREN: Final = (("message_type", 4), ("enum_type", 5), ("service", 6))
_MESSAGE_CHILDREN: Final = (("field", 2), ("nested_type", 3), ("enum_type", 4))
_ENUM_CHILDREN: Final = (("value", 2),)
_SERVICE_CHILDREN: Final = (("method", 2),)

_Path = tuple[int, ...]


def of_files(files: descriptor_pb2.FileDescriptorSet) -> Mapping[str, str]:
    """Leading comments of messages, fields, enums, enum values, services and methods.

    An enum value is named below its enum ("pkg.State.STATE_OPEN").
    """
    return {name: text for file in files.file for name, text in _of_file(file)}


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, str]]:
    texts: dict[_Path, str] = {
        tuple(location.path): _unwrapped(location.leading_comments)
        for location in file.source_code_info.location
        if location.leading_comments
    }
    for name, path in _named(file, file.package, (), _FILE_CHILDREN):
        if path in texts:
            yield name, texts[path]


def _named(parent: Any, prefix: str, path: _Path, kinds: tuple[tuple[str, int], ...]) -> Iterator[tuple[str, _Path]]:
    for attribute, number in kinds:
        for index, child in enumerate(getattr(parent, attribute)):
            name, child_path = f"{prefix}.{child.name}", (*path, number, index)
            yield name, child_path
            yield from _named(child, name, child_path, _children_of(child))


def _children_of(element: Any) -> tuple[tuple[str, int], ...]:
    if isinstance(element, descriptor_pb2.DescriptorProto):
        return _MESSAGE_CHILDREN
    if isinstance(element, descriptor_pb2.EnumDescriptorProto):
        return _ENUM_CHILDREN
    return _SERVICE_CHILDREN if isinstance(element, descriptor_pb2.ServiceDescriptorProto) else ()


def _unwrapped(comment: str) -> str:
    """A comment with its line breaks inside of paragraphs taken out."""
    lines = [line.strip() for line in comment.strip().splitlines()]
    paragraphs = "\n".join(lines).split("\n\n")
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)
