"""The node `ovseg`: images in, named segments out, under a vocabulary that changes while it runs.

This file is the wiring: lifecycle, services and process. Callbacks only hand things over to the threads of `Pipeline`.
"""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future as RosFuture
from std_srvs.srv import SetBool

from ovseg_ros.core.errors import OvsegError
from ovseg_ros.ros.image_inputs import ImageInputs, IncomingFrame
from ovseg_ros.ros.node_process import run_node
from ovseg_ros.ros.parameter_spec import declare
from ovseg_ros.ros.parameters import PARAMETERS, merge_parameters, validate
from ovseg_ros.ros.pipeline import Pipeline
from ovseg_ros.ros.query import phrase_vocabulary, query_response, refused_query
from ovseg_ros.ros.vocabulary_service import initial_specs
from ovseg_ros.srv import GetVocabulary, Query, SetVocabulary

if TYPE_CHECKING:
    from ovseg_ros.core.segmenter import PanopticSegmenter

Answer = TypeVar("Answer")
SegmenterFactory = Callable[[str, str], "PanopticSegmenter"]
_NOT_CONFIGURED = "the node is not configured; configure it first"
_WATCH_PERIOD = 1.0
"""Seconds between looks at whether images still come."""


class SegmentNode(LifecycleNode):
    """Configure loads model and vocabulary, activate subscribes and publishes.

    Args:
        segmenter_factory: makes the segmenter from the parameters preset and device; by default `build_segmenter`.

    Raises:
        rclpy.exceptions.ParameterException: a parameter given at start has the wrong type or is out of range.
    """

    def __init__(self, segmenter_factory: SegmenterFactory | None = None) -> None:
        super().__init__("ovseg")
        self.add_on_set_parameters_callback(validate)
        declare(self, PARAMETERS)
        self._make_segmenter = segmenter_factory or _build_segmenter
        self._pipeline: Pipeline | None = None
        self._inputs: ImageInputs | None = None
        self._latest: IncomingFrame | None = None
        # By a clock of its own: simulated time may stand still, and that is worth a warning too.
        self.create_timer(_WATCH_PERIOD, self._watch_inputs, clock=Clock(clock_type=ClockType.STEADY_TIME))
        # A pending answer must not keep images and other requests waiting.
        waiting = ReentrantCallbackGroup()
        self.create_service(SetVocabulary, "~/set_vocabulary", self._set_vocabulary, callback_group=waiting)
        self.create_service(Query, "~/query", self._query, callback_group=waiting)
        self.create_service(GetVocabulary, "~/get_vocabulary", self._get_vocabulary)
        self.create_service(SetBool, "~/enable", self._enable)

    # Lifecycle

    def start(self) -> bool:
        """Configures and activates, unless the parameter autostart leaves that to a lifecycle manager."""
        if not self._value("autostart"):
            return True
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and the vocabulary and runs the model once."""
        preset, device = self._value("preset"), self._value("device")
        try:
            specs = initial_specs(self._value("vocabulary"), self._value("vocabulary_file"))
            segmenter = self._make_segmenter(preset, device)
            declare(self, merge_parameters(segmenter.merge))
            self._pipeline = Pipeline(self, segmenter, specs)
        except (OvsegError, ParameterException) as error:
            return self._refuse(str(error))
        except Exception as error:  # such as a device that is out of memory
            return self._refuse(f"preset {preset!r} on device {device!r}: {_describe(error)}")
        vocabulary = self._pipeline.vocabulary.current.vocabulary
        self.get_logger().info(
            f"preset {preset} on {segmenter.device}, vocabulary of {len(vocabulary.categories)} categories"
        )
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Publishes from now on, and subscribes."""
        try:
            self._inputs = ImageInputs(self, self._value("image_transport"), self._receive)
        except Exception as error:  # such as a qos_overrides parameter that is no QoS; rclpy would swallow it
            return self._refuse(f"the image inputs: {_describe(error)}")
        self.get_logger().info(f"active; images come from {' or '.join(self._inputs.topics)}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes; publishes nothing more."""
        self._unsubscribe()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the model."""
        self.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees everything, from any state."""
        self.close()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees everything, so that the node can be configured again."""
        self.close()
        return super().on_error(state)

    def close(self) -> None:
        """Ends subscriptions, threads and publishers; waits for the frame at hand."""
        self._unsubscribe()
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _refuse(self, reason: str) -> TransitionCallbackReturn:
        if self.context.ok():  # else the process was told to end meanwhile, and that is why
            self.get_logger().fatal(f"cannot start: {reason}")
        return TransitionCallbackReturn.FAILURE

    def _unsubscribe(self) -> None:
        if self._inputs is not None:
            self._inputs.close()
            self._inputs = None
        self._latest = None
        if self._pipeline is not None:
            self._pipeline.forget()

    # Images

    def _receive(self, frame: IncomingFrame) -> None:
        self._latest = frame
        if self._pipeline is not None and self._value("enabled"):
            self._pipeline.put(frame)

    def _watch_inputs(self) -> None:
        if self._inputs is not None and self._value("enabled"):
            self._inputs.check_timeout(self._value("image_timeout"))

    # Services

    async def _set_vocabulary(
        self, request: SetVocabulary.Request, response: SetVocabulary.Response
    ) -> SetVocabulary.Response:
        if self._pipeline is None:
            response.message = _NOT_CONFIGURED
            return response
        vocabulary = self._pipeline.vocabulary
        try:
            response = await self._answer(vocabulary.submit(request))
        except Exception as error:  # the answer carries the reason; the node goes on
            response.message = f"the vocabulary stays as it was: {_describe(error)}"
            response.version = vocabulary.current.vocabulary.version
        if response.success:
            self.get_logger().info(f"vocabulary {response.version}: {len(response.category_ids)} categories")
        else:
            self.get_logger().warning(f"set_vocabulary refused: {response.message}")
        return response

    def _get_vocabulary(
        self, request: GetVocabulary.Request, response: GetVocabulary.Response
    ) -> GetVocabulary.Response:
        if self._pipeline is not None:
            response.vocabulary = self._pipeline.vocabulary_message
        return response

    async def _query(self, request: Query.Request, response: Query.Response) -> Query.Response:
        if self._pipeline is None or self._inputs is None:
            return refused_query("the node is not active; activate it first")
        if self._latest is None:
            return refused_query(f"no image has come yet on {' or '.join(self._inputs.topics)}")
        pipeline, frame = self._pipeline, self._latest
        try:
            text = await self._answer(pipeline.vocabulary.encode(phrase_vocabulary(request.phrase)))
            result = await self._answer(pipeline.query(frame, text))
            return query_response(result, request.phrase, frame.header)
        except Exception as error:  # the answer carries the reason; the node goes on
            return refused_query(_describe(error))

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self.set_parameters([Parameter("enabled", value=request.data)])[0]
        response.success = result.successful
        response.message = result.reason or ("enabled" if request.data else "disabled")
        return response

    async def _answer(self, future: "Future[Answer]") -> Answer:
        """Waits for another thread's answer while the executor goes on with other callbacks."""
        executor = self.executor
        done: RosFuture = RosFuture(executor=executor)

        def wake(_: object) -> None:
            done.set_result(None)
            if executor.context.ok():
                executor.wake()

        future.add_done_callback(wake)
        await done
        return future.result()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def _build_segmenter(preset: str, device: str) -> "PanopticSegmenter":
    # Imported when needed, which takes seconds: mistakes in parameters and vocabulary show before that.
    from ovseg_ros.core.build import build_segmenter

    return build_segmenter(preset, device)


def _describe(error: BaseException) -> str:
    if isinstance(error, OvsegError):
        return str(error)
    if isinstance(error, CancelledError):
        return "the node shuts down"
    return f"{type(error).__name__}: {error}"


def main(args: list[str] | None = None) -> None:
    """Runs the node until SIGINT or SIGTERM. Exits with 1 where it cannot start."""
    run_node(SegmentNode, "ovseg", args)
